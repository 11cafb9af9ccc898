//! The names of all spans and of their attributes.

use super::Kind;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident: $kind:ident $text:literal,)+) => {
        /// An operation that has a span.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation {
            $($(#[$doc])* $name,)+
        }

        impl Operation {
            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$name),+];

            /// The span's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// The side of a call that the span describes.
            pub const fn kind(self) -> Kind {
                match self {
                    $(Self::$name => Kind::$kind,)+
                }
            }
        }
    };
}

operations! {
    /// A client's request. Its span gets a more specific name once the request is answered.
    Request: Server "request",
    /// A request that another shard forwarded, or a part that it asks for.
    AnswerForAPeer: Server "answer for a peer",
    Forward: Client "forward",
    AskForAPart: Client "ask for a part",
    GuestRoute: Internal "guest route",
    GuestHandle: Internal "guest handle",
    GuestGather: Internal "guest gather",
    WaitForTheWriter: Internal "wait for the writer",
    Commit: Internal "commit",
}

macro_rules! attributes {
    ($($(#[$doc:meta])* $name:ident: $text:literal,)+) => {
        /// An attribute of a span.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Attribute {
            $($(#[$doc])* $name,)+
        }

        impl Attribute {
            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$name),+];

            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

attributes! {
    Method: "http.request.method",
    /// Without the query.
    Path: "url.path",
    Status: "http.response.status_code",
    /// The shard that answered, or that the client is to ask.
    Shard: "ostrakon.shard",
    Generation: "ostrakon.generation",
    Target: "ostrakon.target",
    Access: "ostrakon.access",
    /// The other shard's ordinal.
    Peer: "ostrakon.peer",
    /// How many spans of a request were not recorded because it has too many.
    SpansLeftOut: "ostrakon.spans_left_out",
}
