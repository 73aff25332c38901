"""Other people's models as witnesses: recorded outputs (`golden`), their speed (`bench`), their published weights (`released`)."""
