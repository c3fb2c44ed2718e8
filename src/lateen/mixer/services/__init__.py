"""Envoy's services as Mixer offers them: external authorization, rate limits, access logs.

asker        who asks: what Pilot wrote into the call's metadata, held against the caller's certificate
places       attributes by name, filled in only where the loaded rules read them
peers        client and server of a request: addresses, identities, what their proxies tell
checks       CheckRequest, HTTP and network, to attributes
descriptors  RateLimitRequest to attributes
entries      access log entries, HTTP and TCP, to attributes
answers      decisions to what Envoy understands
service      the calls themselves
"""
