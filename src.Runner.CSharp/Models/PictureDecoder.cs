using Hybrid.Api;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>From image codes to pictures: the decoder half of an image tokenizer, with the grid of its codes.</summary>
internal sealed class PictureDecoder(PictureTokenizer tokenizer, int height, int width) : IDisposable
{
    /// <summary>Entries of its codebook.</summary>
    public int Codebook => tokenizer.Codes;

    /// <summary>Codes of a picture.</summary>
    public int Codes => height * width;

    /// <summary>The pictures of some grids of codes, each row by row.</summary>
    public IReadOnlyList<Picture> Decode(IReadOnlyList<int[]> codes) =>
    [
        .. tokenizer.Decode(codes, height, width)
            .Select(pixels => new Picture(width * tokenizer.Stride, height * tokenizer.Stride, pixels)),
    ];

    public void Dispose() => ((IDisposable)tokenizer).Dispose();
}
