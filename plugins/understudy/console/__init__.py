"""The web page inside Airflow for whoever is on call: what is served, how the run stands, and the way back."""
