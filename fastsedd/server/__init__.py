"""`fastsedd serve`: texts over HTTP as OpenAI's clients ask for them, and a page on which they emerge.

Data goes one way: app -> bodies -> `Request` -> scheduler -> engine, and items come back through an `Answer`. The event
loop never runs the model, and the scheduler's one thread never waits for a client.
"""
