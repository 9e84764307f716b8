namespace Hybrid.Runner.Alignment;

/// <summary>Pairs of a caption's token ids and a picture's codes, by their place; no caption is empty.</summary>
internal interface ITokenPairs : IDisposable
{
    int Count { get; }

    /// <summary>What this is, for messages: a path.</summary>
    string Name { get; }

    /// <summary>How many codes the data say that there are; 0 where they do not.</summary>
    int ImageCodes { get; }

    /// <summary>A pair. Errors: InputException naming file and entry.</summary>
    (int[] Caption, int[] Codes) Pair(int index);
}
