"""Does a language model still predict the next token as its reference does, over documents of any number and length?"""
