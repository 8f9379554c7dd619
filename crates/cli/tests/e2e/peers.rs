//! Servers and clients that others wrote and people use: each client in front of a server that keeps state, and
//! `server-everything` behind each kind of client. The counter on the TypeScript SDK, in both versions, is one more
//! upstream for the other tests (`over_each_upstream`).

mod bridged;
mod clients;
mod everything;
mod handshakes;
mod inspector;
mod modern;
mod standing;
