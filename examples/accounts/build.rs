//! The types of the events, from the contracts.

fn main() -> Result<(), millrace_codegen::Error> {
    millrace_codegen::generate("contracts")
}
