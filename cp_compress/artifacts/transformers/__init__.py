"""How is a model of Hugging Face's transformers read from a folder or the cache?"""
