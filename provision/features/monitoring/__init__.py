"""Monitoring: Prometheus and Alertmanager on hosts of a group, exporters on all hosts, dashboards for Grafana."""
