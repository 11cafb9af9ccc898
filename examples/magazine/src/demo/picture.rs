//! The demo's pictures: ellipses on a ground, written as PNG.

const WIDTH: u32 = 640;
const HEIGHT: u32 = 360;

/// Red, green and blue of each colour.
const PALETTE: [[u8; 3]; 16] = [
    [0x2f, 0x3e, 0x55], // 0 dark blue
    [0x3d, 0x50, 0x6c], // 1 blue
    [0x8a, 0x5a, 0x36], // 2 wood
    [0x7d, 0x50, 0x2f], // 3 wood, dark
    [0xf6, 0xf1, 0xe7], // 4 white
    [0xdf, 0xd6, 0xc6], // 5 white, shaded
    [0xb4, 0x71, 0x33], // 6 crust
    [0xd0, 0x95, 0x50], // 7 crust, light
    [0xf0, 0xd6, 0xa4], // 8 crumb
    [0xb9, 0x2c, 0x20], // 9 red
    [0xd6, 0x45, 0x30], // 10 red, light
    [0x4e, 0x7d, 0x3a], // 11 green
    [0x7f, 0xa7, 0x58], // 12 green, light
    [0x8c, 0x4a, 0x75], // 13 violet
    [0xc9, 0x9a, 0xbb], // 14 violet, light
    [0x24, 0x1f, 0x1c], // 15 shadow
];

/// A picture.
pub(super) struct Scene {
    pub(super) name: &'static str,
    /// Two colours in stripes.
    ground: [u8; 2],
    /// Each on top of those before it.
    shapes: &'static [Ellipse],
}

/// Centre, half width, half height, and colour.
struct Ellipse(u16, u16, u16, u16, u8);

pub(super) const SCENES: [Scene; 4] = [
    Scene {
        name: "bread",
        ground: [0, 1],
        shapes: &[
            Ellipse(320, 210, 285, 135, 3),
            Ellipse(320, 200, 285, 135, 2),
            Ellipse(326, 202, 205, 105, 15),
            Ellipse(320, 185, 205, 108, 6),
            Ellipse(312, 175, 180, 88, 7),
            Ellipse(230, 172, 17, 62, 6),
            Ellipse(230, 172, 11, 56, 8),
            Ellipse(312, 168, 17, 68, 6),
            Ellipse(312, 168, 11, 62, 8),
            Ellipse(394, 172, 17, 62, 6),
            Ellipse(394, 172, 11, 56, 8),
        ],
    },
    Scene {
        name: "soup",
        ground: [2, 3],
        shapes: &[
            Ellipse(328, 190, 168, 168, 15),
            Ellipse(320, 180, 165, 165, 5),
            Ellipse(320, 178, 158, 158, 4),
            Ellipse(320, 182, 126, 126, 5),
            Ellipse(320, 184, 122, 122, 9),
            Ellipse(312, 176, 108, 108, 10),
            Ellipse(268, 150, 26, 11, 11),
            Ellipse(272, 147, 18, 5, 12),
            Ellipse(352, 132, 12, 24, 11),
            Ellipse(349, 130, 5, 17, 12),
            Ellipse(368, 214, 28, 12, 11),
            Ellipse(372, 211, 20, 5, 12),
            Ellipse(288, 226, 12, 26, 11),
            Ellipse(285, 224, 5, 18, 12),
            Ellipse(322, 180, 15, 12, 4),
        ],
    },
    Scene {
        name: "tomatoes",
        ground: [1, 0],
        shapes: &[
            Ellipse(176, 236, 92, 78, 15),
            Ellipse(168, 220, 92, 86, 9),
            Ellipse(158, 208, 74, 66, 10),
            Ellipse(166, 152, 34, 10, 11),
            Ellipse(166, 150, 9, 20, 12),
            Ellipse(336, 276, 82, 60, 15),
            Ellipse(330, 256, 82, 74, 9),
            Ellipse(322, 246, 66, 56, 10),
            Ellipse(328, 196, 30, 9, 11),
            Ellipse(328, 194, 8, 17, 12),
            Ellipse(482, 218, 98, 84, 15),
            Ellipse(474, 200, 98, 92, 9),
            Ellipse(462, 188, 80, 70, 10),
            Ellipse(472, 126, 36, 11, 11),
            Ellipse(472, 124, 10, 22, 12),
            Ellipse(322, 128, 66, 52, 15),
            Ellipse(318, 116, 66, 60, 9),
            Ellipse(310, 108, 52, 46, 10),
            Ellipse(316, 68, 24, 8, 11),
            Ellipse(316, 66, 7, 15, 12),
        ],
    },
    Scene {
        name: "onion",
        ground: [8, 7],
        shapes: &[
            Ellipse(330, 198, 196, 150, 6),
            Ellipse(320, 182, 196, 152, 13),
            Ellipse(320, 182, 184, 140, 4),
            Ellipse(320, 182, 166, 124, 14),
            Ellipse(320, 182, 158, 116, 4),
            Ellipse(320, 182, 136, 97, 14),
            Ellipse(320, 182, 129, 90, 4),
            Ellipse(320, 182, 107, 72, 14),
            Ellipse(320, 182, 100, 66, 4),
            Ellipse(320, 182, 78, 49, 14),
            Ellipse(320, 182, 72, 44, 4),
            Ellipse(320, 182, 50, 28, 14),
            Ellipse(320, 182, 44, 23, 4),
            Ellipse(320, 182, 22, 10, 12),
        ],
    },
];

/// The picture as a PNG with 16 colours (PNG specification, third edition).
pub(super) fn png(scene: &Scene) -> Vec<u8> {
    let mut header = [WIDTH.to_be_bytes(), HEIGHT.to_be_bytes()].concat();
    // Four bits of a palette for each pixel; the only methods of compression and filters; not interlaced.
    header.extend([4, 3, 0, 0, 0]);
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut png, b"IHDR", &header);
    chunk(&mut png, b"PLTE", PALETTE.as_flattened());
    chunk(&mut png, b"IDAT", &zlib(&rows(scene)));
    chunk(&mut png, b"IEND", &[]);
    png
}

/// The rows of pixels: before each a byte that says that it is not filtered, then two pixels in each byte.
fn rows(scene: &Scene) -> Vec<u8> {
    let mut rows = Vec::new();
    for y in 0..HEIGHT {
        let painted = row(scene, y);
        rows.push(0);
        rows.extend(
            painted
                .as_chunks()
                .0
                .iter()
                .map(|[left, right]| left << 4 | right),
        );
    }
    rows
}

/// The colour of each pixel in a row.
fn row(scene: &Scene, y: u32) -> Vec<u8> {
    let stripes = (0..WIDTH).map(|x| scene.ground[usize::from((x + y) / 32 % 2 == 1)]);
    let mut row: Vec<u8> = stripes.collect();
    for &Ellipse(x, middle, half_width, half_height, colour) in scene.shapes {
        let down = f64::from(y) - f64::from(middle);
        let share = 1.0 - (down / f64::from(half_height)).powi(2);
        if share < 0.0 {
            continue;
        }
        let half = f64::from(half_width) * share.sqrt();
        let is_inside = |at: f64| (at - f64::from(x)).abs() <= half;
        for (at, pixel) in (0_u32..).zip(&mut row) {
            if is_inside(f64::from(at)) {
                *pixel = colour;
            }
        }
    }
    row
}

/// The bytes as zlib has them (RFC 1950), in blocks that are not compressed (RFC 1951, section 3.2.4).
fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut zlib = vec![0x78, 0x01];
    let mut blocks = bytes.chunks(usize::from(u16::MAX)).peekable();
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).expect("a block is no longer");
        zlib.push(u8::from(blocks.peek().is_none()));
        zlib.extend(length.to_le_bytes());
        zlib.extend((!length).to_le_bytes());
        zlib.extend(block);
    }
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    zlib.extend((b << 16 | a).to_be_bytes());
    zlib
}

fn chunk(png: &mut Vec<u8>, name: &[u8], data: &[u8]) {
    let length = u32::try_from(data.len()).expect("a picture is small");
    png.extend(length.to_be_bytes());
    let start = png.len();
    png.extend(name);
    png.extend(data);
    let checksum = crc(&png[start..]);
    png.extend(checksum.to_be_bytes());
}

/// The checksum of PNG (annex D), by a table for each half of a byte.
fn crc(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut at = 0_u32;
        while at < 16 {
            let mut value = at;
            let mut bit = 0;
            while bit < 4 {
                value = if value & 1 == 1 {
                    0xedb8_8320 ^ value >> 1
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[at as usize] = value;
            at += 1;
        }
        table
    };
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        crc = TABLE[(crc & 15) as usize] ^ crc >> 4;
        crc = TABLE[(crc & 15) as usize] ^ crc >> 4;
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_specifications() {
        // Both are published with the algorithms.
        assert_eq!(crc(b"123456789"), 0xcbf4_3926);
        assert_eq!(zlib(b"Wikipedia")[16..], 0x11e6_0398_u32.to_be_bytes());
    }

    #[test]
    fn a_picture_fits_its_header() {
        for scene in &SCENES {
            assert_eq!(rows(scene).len(), (1 + 640 / 2) * 360);
            assert!(row(scene, 180).iter().all(|colour| *colour < 16));
            assert!(png(scene).ends_with(b"\0\0\0\0IEND\xae\x42\x60\x82"));
        }
    }
}
