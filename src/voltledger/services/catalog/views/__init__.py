"""What the catalogue returns: Structs whose fields are the contract's names."""
