"""Do the numbers that a model gives stay the same, whatever they mean: regressions, forecasts, images, embeddings?"""
