"""How is a classifier of Hugging Face's transformers read from a folder or the cache?"""
