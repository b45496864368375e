//! Whether what arrives is what a server has to send: every byte of every frame is looked at.

mod comparison;
mod passed_over;
pub(crate) mod received;
pub(crate) mod verifier;
