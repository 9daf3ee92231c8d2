"""On which data is a model run? Labelled data in any form, read in one way."""
