"""The ground floor: errors, policies, options, requests, leases, the event loop."""
