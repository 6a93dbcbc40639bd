"""Requests over MQTT: asked, admitted, carried out."""
