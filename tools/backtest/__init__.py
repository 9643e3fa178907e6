"""Backtest of the demand estimator on ServeGen: does what Lowbeam sizes for suffice, and how much too much is it?"""
