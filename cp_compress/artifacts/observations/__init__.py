"""How is what a model did on a data set written to a file, and read without the model?"""
