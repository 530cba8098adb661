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
        pub pieces: Vec<Piece>,
        #[doc = "Where it may lie."]
        pub shelves: ::std::collections::BTreeMap<String, Vec<Option<i64>>>,
        #[doc = "What it is a part of."]
        pub of: Option<::uuid::Uuid>,
        #[doc = "When it was seen."]
        pub seen_at: Option<::millrace_client::avro::Timestamp>,
        #[doc = "A part beside it."]
        pub spare: Option<Spare>,
        #[doc = "Whether it works."]
        pub is_good: bool,
        #[doc = "Of good ones."]
        pub ratio: f32,
        #[doc = "A word that can't be a name in Rust."]
        #[serde(rename = "self")]
        pub self_: String,
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
        pub r#type: String,
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
