"""What are models asked about? Labelled data in any form, read in one way."""
