//! A client of 2026-07-28 and a server with a handshake (2024-11-05 to 2025-11-25).
