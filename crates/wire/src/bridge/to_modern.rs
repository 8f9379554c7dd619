//! A client with a handshake (2024-11-05 to 2025-11-25) and a server of 2026-07-28.
