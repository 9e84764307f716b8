using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>How pairs of captions and codes become sequences: as a run's configuration says, or captioned, as long as the longest pair.</summary>
internal sealed class PairComposer(TrainPlan? plan, Vocabulary vocabulary)
{
    /// <summary>The length of all sequences.</summary>
    public int Length(int longestCaption, int codes) => plan?.Config.Length ?? longestCaption + codes + Sequence.marks(Form.Captioned);

    /// <summary>The longest caption that fits; a longer one loses its end.</summary>
    public int CaptionLimit(int codes) => plan?.CaptionLimit(codes) ?? int.MaxValue;

    /// <summary>One sequence. Errors: InputException where it does not fit or an id is outside its range.</summary>
    public long[] Compose(int length, long position, int[] caption, int[] codes)
    {
        int limit = CaptionLimit(codes.Length);
        int[] cut = caption.Length > limit ? caption[..limit] : caption;
        return plan is null ? Api.Compose.Captioned(vocabulary, length, cut, codes) : Api.Compose.Of(plan.Config, position, cut, codes);
    }
}
