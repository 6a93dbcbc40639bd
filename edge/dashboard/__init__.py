"""Watch and the page, from MQTT alone."""
