"""Which layers of the model, or which stages of the pipeline, cause the changed predictions?"""
