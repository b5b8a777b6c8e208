"""What a method is, finding methods, and the contract that each must hold."""
