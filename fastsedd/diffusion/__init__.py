"""The maths of score entropy discrete diffusion (SEDD): noise, graphs, time grids, predictors, sampler, likelihood."""
