"""Training: a recipe says what, the loop does it with the parts that it is handed."""
