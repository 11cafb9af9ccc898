//! The names of all spans and of their attributes.

use super::Kind;

macro_rules! names {
    ($(#[$meta:meta])* $enum:ident { $($(#[$doc:meta])* $name:ident: $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $enum {
            $($(#[$doc])* $name,)+
        }

        impl $enum {
            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$name),+];

            /// The name in exported spans.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

names! {
    /// An operation that has a span.
    Operation {
        /// A client's request. Its span gets a more specific name once the request is answered.
        Request: "request",
        /// A request that another shard forwarded, or a part that it asks for.
        AnswerForAPeer: "answer for a peer",
        Forward: "forward",
        AskForAPart: "ask for a part",
        GuestRoute: "guest route",
        GuestHandle: "guest handle",
        GuestGather: "guest gather",
        WaitForTheWriter: "wait for the writer",
        Commit: "commit",
    }
}

impl Operation {
    /// The side of a call that the span describes.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Request | Self::AnswerForAPeer => Kind::Server,
            Self::Forward | Self::AskForAPart => Kind::Client,
            Self::GuestRoute
            | Self::GuestHandle
            | Self::GuestGather
            | Self::WaitForTheWriter
            | Self::Commit => Kind::Internal,
        }
    }
}

names! {
    /// An attribute of a span.
    Attribute {
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
}
