/// `thing.made`.
#[allow(dead_code, non_camel_case_types, clippy::upper_case_acronyms)] // names are the contract's, and not all are used
pub mod thing_made {
    #[doc = "Something was made.\nIt has a field of each kind, and says \"so\"."]
    #[derive(Debug, Clone, PartialEq, ::serde::Serialize)]
    pub struct ThingMade {
        #[doc = "The thing."]
        pub thing_id: ::uuid::Uuid,
        #[doc = "When."]
        pub made_at: ::millrace_client::avro::Timestamp,
        #[doc = "The day."]
        pub made_on: ::millrace_client::avro::Date,
        #[doc = "In euros."]
        pub price: ::millrace_client::avro::Decimal<4>,
        #[doc = "In percent."]
        pub tax: ::millrace_client::avro::Decimal<2, 8>,
        #[doc = "Of its plan."]
        pub digest: ::millrace_client::avro::Fixed<4>,
        #[doc = "As a picture."]
        pub photo: ::millrace_client::avro::Bytes,
        #[doc = "Its best part."]
        pub best: Part,
        #[doc = "What it breaks into."]
        pub pieces: ::std::vec::Vec<Piece>,
        #[doc = "Where it may lie."]
        pub shelves: ::std::collections::BTreeMap<::std::string::String, ::std::vec::Vec<::core::option::Option<i64>>>,
        #[doc = "What it is a part of."]
        pub of: ::core::option::Option<::uuid::Uuid>,
        #[doc = "When it was seen."]
        pub seen_at: ::core::option::Option<::millrace_client::avro::Timestamp>,
        #[doc = "A part beside it."]
        pub spare: ::core::option::Option<Spare>,
        #[doc = "Whether it works."]
        pub is_good: bool,
        #[doc = "Of good ones."]
        pub ratio: f32,
        #[doc = "A word that can't be a name in Rust."]
        #[serde(rename = "self")]
        pub self_: ::std::string::String,
    }

    #[doc = "A part to spare."]
    #[derive(Debug, Clone, PartialEq, ::serde::Serialize)]
    pub struct Spare {
        #[doc = "How many."]
        pub count: i64,
    }

    #[doc = "One of them."]
    #[derive(Debug, Clone, PartialEq, ::serde::Serialize)]
    pub struct Piece {
        #[doc = "In millimetres."]
        pub size: i32,
    }

    #[doc = "A part of it."]
    #[derive(Debug, Clone, PartialEq, ::serde::Serialize)]
    pub struct Part {
        #[doc = "A word that Rust has for itself."]
        pub r#type: ::std::string::String,
        #[doc = "In grams."]
        pub weight: f64,
        #[doc = "Its colour."]
        pub colour: Colour,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ::serde::Serialize)]
    pub enum Colour {
        RED,
        #[serde(rename = "self")]
        self_,
        r#type,
        UNKNOWN,
    }

    impl ::millrace_client::Event for ThingMade {
        const TYPE: &'static str = "thing.made";
    }
}
/// `thing.named`.
#[allow(dead_code, non_camel_case_types, clippy::upper_case_acronyms)] // names are the contract's, and not all are used
pub mod thing_named {
    #[doc = "Its types have names that Rust has for its own."]
    #[derive(Debug, Clone, PartialEq, ::serde::Serialize)]
    pub struct Self_ {
        #[doc = "The thing."]
        pub thing_id: ::uuid::Uuid,
        #[doc = "What was chosen."]
        pub option: ::core::option::Option<Option>,
        #[doc = "Where it points."]
        pub vec: ::std::vec::Vec<Vec>,
        #[doc = "What it hangs on."]
        pub string: String,
        #[doc = "What else it says."]
        pub labels: ::std::collections::BTreeMap<::std::string::String, ::std::string::String>,
        #[doc = "Which it is."]
        pub kind: r#type,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ::serde::Serialize)]
    pub enum r#type {
        GOOD,
        UNKNOWN,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ::serde::Serialize)]
    pub enum String {
        THREAD,
        UNKNOWN,
    }

    #[doc = "A vector."]
    #[derive(Debug, Clone, PartialEq, ::serde::Serialize)]
    pub struct Vec {
        #[doc = "To the right."]
        pub x: ::core::option::Option<i32>,
    }

    #[doc = "A choice."]
    #[derive(Debug, Clone, PartialEq, ::serde::Serialize)]
    pub struct Option {
        #[doc = "What it says."]
        pub label: ::std::string::String,
    }

    impl ::millrace_client::Event for Self_ {
        const TYPE: &'static str = "thing.named";
    }
}
