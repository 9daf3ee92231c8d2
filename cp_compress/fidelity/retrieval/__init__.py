"""Does an encoder, or a reranker, still find the same documents for a query?"""
