"""What is declared: specs, the paper's experiments made of them, and the user's own model in VMA's place."""
