"""Requests over MQTT: sent by a client, admitted, and carried out."""
