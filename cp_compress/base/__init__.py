"""What does every other folder use? Errors, checks of arguments, digests, files, expressions and batches."""
