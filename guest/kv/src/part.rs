//! One shard's part of a listing, and the merge of all parts into one list.
//!
//! A part is a byte that tells whether the shard has more keys, followed by its first keys in order, each after its
//! length (4 bytes, big-endian). Its size is bounded, so that the parts of all shards fit into memory together.

use std::{cmp::Reverse, collections::BinaryHeap};

use ostrakon_guest::{Part, Partitions, Request, Response, Result};

const MORE: u8 = b'+';
const LAST: u8 = b'.';

/// The maximum bytes of all shards' parts together.
const MAX_PARTS: usize = 24 << 20;
/// The maximum bytes of one part.
const MAX_PART: usize = 8 << 20;

/// A shard's part: its first keys, at most `limit`, or fewer if they do not fit; at least one, if there is one.
pub(crate) fn of_shard(request: &Request, partitions: Partitions, limit: usize) -> Response {
    let max = MAX_PART.min(MAX_PARTS / request.shards() as usize);
    let mut body = vec![LAST];
    for (before, key) in partitions.enumerate() {
        if before == limit || (before > 0 && body.len() + 4 + key.len() > max) {
            body[0] = MORE;
            break;
        }
        let length = u32::try_from(key.len()).expect("a partition's key is short");
        body.extend(length.to_be_bytes());
        body.extend(key);
    }
    Response::bytes("application/octet-stream", body)
}

/// The keys of all parts, in order, as far as they are known: up to the end, or up to the last key of a part whose shard
/// has more keys.
#[derive(Debug)]
pub(crate) struct Joined<'a> {
    /// The next key of each part that has one, and the number of the part.
    heads: BinaryHeap<Reverse<(&'a [u8], usize)>>,
    /// The keys of each part after its head.
    parts: Vec<Keys<'a>>,
    /// Whether a part has ended although its shard has more keys.
    is_cut: bool,
}

impl<'a> Joined<'a> {
    /// Fails unless every shard returned a part: a list that silently lacks keys would be worse than an error.
    pub(crate) fn of(parts: &'a [Part]) -> Result<Self> {
        let parse = |part: &'a Part| {
            let unreadable = || part.unreadable("its list is malformed");
            Keys::of(part.body()?).ok_or_else(unreadable)
        };
        let parts: Vec<_> = parts.iter().map(parse).collect::<Result<_>>()?;
        let mut joined = Self {
            heads: BinaryHeap::with_capacity(parts.len()),
            is_cut: false,
            parts,
        };
        (0..joined.parts.len()).for_each(|part| joined.advance(part));
        Ok(joined)
    }

    /// Whether there are keys after those that were returned.
    pub(crate) fn has_more(&self) -> bool {
        self.is_cut || !self.heads.is_empty()
    }

    fn advance(&mut self, part: usize) {
        match self.parts[part].next() {
            Some(key) => self.heads.push(Reverse((key, part))),
            None => self.is_cut |= self.parts[part].more,
        }
    }
}

impl<'a> Iterator for Joined<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.is_cut {
            return None;
        }
        let Reverse((key, part)) = self.heads.pop()?;
        self.advance(part);
        // Two shards may list a key that moves between them.
        while let Some(&Reverse((same, part))) = self.heads.peek()
            && same == key
        {
            self.heads.pop();
            self.advance(part);
        }
        Some(key)
    }
}

/// The keys of one part that were not taken yet.
#[derive(Clone, Debug)]
struct Keys<'a> {
    rest: &'a [u8],
    more: bool,
}

impl<'a> Keys<'a> {
    /// `None` if the bytes are no part: shards can run different guests for a while.
    fn of(body: &'a [u8]) -> Option<Self> {
        let (flag, rest) = body.split_first()?;
        let more = *flag == MORE;
        let keys = Self { rest, more };
        let mut walked = keys.clone();
        while walked.next().is_some() {}
        ((more || *flag == LAST) && walked.rest.is_empty()).then_some(keys)
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        self.rest = rest;
        Some(key)
    }
}
