//! A picture as a PNG file. Pure.

use super::Picture;

/// The picture can't be packed.
#[derive(Debug, thiserror::Error)]
#[error("packing the picture: {0}")]
pub struct PngError(#[from] png::EncodingError);

/// Packs a picture: 8 bits for each of red, green and blue.
pub fn pack(picture: &Picture) -> Result<Vec<u8>, PngError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, picture.width().into(), picture.height().into());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.rgb())?;
    writer.finish()?;
    Ok(file)
}
