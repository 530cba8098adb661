//! What an operator sees: how far behind each pipeline is, in records and in time, and what is set aside.

mod lag;

pub use lag::{HeldUpStatus, PartitionStatus, PipelineStatus, State, Status, status};
