//! What can happen: contracts, the Avro codec, the envelope, compatibility, and the registry's client.
//!
//! A leaf: no I/O but the registry client's requests and reading a project's contracts.

mod avsc;
pub mod bounds;
mod codec;
pub mod compatibility;
mod contract;
mod envelope;
mod json;
mod login;
mod personal;
mod place;
mod references;
pub mod registry;
mod rules;
mod transcode;
pub mod uuid_text;
pub mod wire;

pub use codec::{DecodeError, EncodeError, WriterSchema};
pub use contract::{Cleanup, Contract, ContractError, Contracts, Version};
pub use envelope::{Envelope, EnvelopeError, Header};
pub use json::{JsonError, value_from_json, value_to_json};
pub use login::{has_login, without_password};
pub use personal::is_name;
pub use place::{Place, locate};
pub use references::with_references;
pub use transcode::{JsonPlan, VIOLATIONS_MAX, Violation, pointer_step};
