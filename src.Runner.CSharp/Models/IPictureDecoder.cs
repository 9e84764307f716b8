using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>From image codes to pictures: the decoder half of an image tokenizer.</summary>
internal interface IPictureDecoder : IDisposable
{
    /// <summary>Entries of its codebook.</summary>
    int Codebook { get; }

    /// <summary>Rows of the grid of codes.</summary>
    int GridHeight { get; }

    /// <summary>Columns of the grid of codes.</summary>
    int GridWidth { get; }

    /// <summary>The pictures of some grids of codes, each row by row.</summary>
    IReadOnlyList<Picture> Decode(IReadOnlyList<int[]> codes);
}
