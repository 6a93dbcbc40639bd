"""The live table and the live page, from MQTT alone."""
