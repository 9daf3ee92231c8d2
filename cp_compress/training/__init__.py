"""How is a model trained while it is compressed?"""
