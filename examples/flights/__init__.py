"""The flight-delay demo: real departures from New York in 2013, three models and a replayer."""
