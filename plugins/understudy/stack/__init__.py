"""The servers an embedded installation consists of, as local processes that never outlive whoever started them."""
