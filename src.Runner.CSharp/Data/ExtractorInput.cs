using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>What is done to a picture before an extractor sees it.</summary>
/// <param name="CenterCrop">The central square first.</param>
/// <param name="PreSize">Then this many pixels a side in whole numbers, or null.</param>
/// <param name="PreFilter">The filter of that.</param>
/// <param name="Resize">clean, lanczos, bilinear or none.</param>
/// <param name="InputSize">The side that the extractor takes.</param>
/// <param name="Scale">inception, symmetric, unit or bytes.</param>
internal sealed record ExtractorInput(bool CenterCrop, int? PreSize, string PreFilter, string Resize, int InputSize, string Scale)
{
    /// <summary>As the command says.</summary>
    public static ExtractorInput Of(FidCommand command) =>
        new(command.CenterCrop, command.PreSize, command.PreFilter, command.Resize, command.InputSize, command.Scale);

    /// <summary>Channels [3, height, width] of a picture in [0, 255].</summary>
    public (float[] Planes, int Width, int Height) Prepare(Picture picture)
    {
        if (CenterCrop)
        {
            int side = Math.Min(picture.Width, picture.Height);
            picture = Pictures.Middle(picture, side, side);
        }

        if (PreSize is { } size)
        {
            picture = new(size, size, Resampling.Resize(picture.Pixels, picture.Width, picture.Height, size, size, ResamplingFilter.Named(PreFilter)));
        }

        switch (Resize)
        {
            case "none":
                return (FloatResampling.Planes(picture), picture.Width, picture.Height);
            case "bilinear":
                return (Interpolate(picture), InputSize, InputSize);
            default:
                ResamplingFilter filter = Resize == "clean" ? ResamplingFilter.Bicubic : ResamplingFilter.Named(Resize);
                float[] planes = FloatResampling.Resize(picture, InputSize, InputSize, filter);
                for (int i = 0; i < planes.Length; i++)
                {
                    planes[i] = Math.Clamp(planes[i], 0f, 255f);
                }

                return (planes, InputSize, InputSize);
        }
    }

    /// <summary>Values from 0 to 255 in the extractor's own scale, in place.</summary>
    public void ScaleInPlace(float[] planes)
    {
        (float shift, float factor) = Scale switch
        {
            "inception" => (128f, 1f / 128f),
            "symmetric" => (127.5f, 1f / 127.5f),
            "unit" => (0f, 1f / 255f),
            _ => (0f, 1f),
        };
        for (int i = 0; i < planes.Length; i++)
        {
            planes[i] = (planes[i] - shift) * factor;
        }
    }

    /// <summary>torch's bilinear interpolation, corners not aligned and not antialiased.</summary>
    private float[] Interpolate(Picture picture)
    {
        using var scope = torch.NewDisposeScope();
        using var quiet = torch.no_grad();
        torch.Tensor whole = torch.tensor(FloatResampling.Planes(picture), [1, 3, picture.Height, picture.Width]);
        torch.Tensor small = torch.nn.functional.interpolate(whole, [InputSize, InputSize], mode: torch.InterpolationMode.Bilinear, align_corners: false);
        return [.. small.clamp(Scalars.Of(0.0), Scalars.Of(255.0)).contiguous().data<float>()];
    }
}
