"""What is computed: Arrow tables and tensors in, Arrow tables and tensors out. No Ray, no clock, no global state."""
