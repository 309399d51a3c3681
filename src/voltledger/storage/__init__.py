"""Where facts and books are kept: ports, and the stores behind them."""
