"""The serving gateway: MLflow's scoring protocol, with arms, events and a mirror behind it.

One process serves one model. ``protocol`` and ``batch`` read requests, ``routing`` decides who answers which row,
``pool`` holds the loaded versions, ``follower`` keeps up with the flag document, ``scoring`` asks the models,
``mirror`` rehearses the challenger, ``service`` ties them together and ``app`` speaks HTTP.
"""
