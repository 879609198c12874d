"""Recovery: adapters with any rank allocation, and the loop that trains them."""
