"""Citadel, the certificate authority: the root, issuance, the audit trail, the control plane's own certificate.

store            the folder that keeps the root
template         checks of CSRs, profiles of certificates; pure
authority        `Authority`: signs
authenticate     who asks
service          Istio's CreateCertificate over gRPC
audit            what was issued and refused
jwt_keys         the keys of JWT-SVIDs, and when each signs
jwt_authority    `JwtAuthority`: signs JWT-SVIDs
jwt_service      agents ask for JWT-SVIDs over gRPC
server_identity  the control plane's own certificate, renewed as it goes
"""
