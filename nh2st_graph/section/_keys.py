"""All AnnData keys that the package reads or writes."""

from __future__ import annotations


class Key:
    """Names of entries in AnnData. They follow squidpy's convention where it has one."""

    #: Part of the name of all entries that a model writes; ``key_added`` replaces it.
    prefix = "nh2st"

    @classmethod
    def under(cls, key: str, prefix: str) -> str:
        """Replace the prefix of a name: ``X_nh2st_image`` under ``second`` is ``X_second_image``."""
        return key.replace(cls.prefix, prefix, 1)

    class obs:
        """Columns of ``obs``."""

        section = "section"
        patient = "patient"
        array_row = "array_row"
        array_col = "array_col"
        in_tissue = "in_tissue"
        domain = "domain"
        neighbour_share = "nh2st_neighbour_share"
        quality = "quality"
        familiarity = "familiarity"
        measured = "nh2st_measured"
        annotation = "annotation"
        signature = "signature"

    class var:
        """Columns of ``var``."""

        kind = "kind"
        neighbour_gain = "nh2st_neighbour_gain"
        neighbour_change = "nh2st_neighbour_change"
        varies = "nh2st_varies"
        measured = "nh2st_measured"
        reliable = "reliable"
        held_out_r = "held_out_pcc"
        held_out_low = "held_out_low"
        held_out_high = "held_out_high"
        held_out_chance = "held_out_chance"
        held_out_partial = "held_out_pcc_partial"
        held_out_ceiling = "held_out_ceiling"
        held_out_share = "held_out_share_of_ceiling"
        n_sections = "n_sections"
        n_patients = "n_patients"
        cut = "call_cut"

    class varm:
        """Entries of ``varm``."""

        truth_loadings = "truth_loadings"
        call_high = "call_high"
        call_low = "call_low"

    class obsm:
        """Entries of ``obsm``."""

        spatial = "spatial"
        image = "X_image"
        embed_image = "X_nh2st_image"
        embed_gene = "X_nh2st_gene"
        truth_morphology = "truth_morphology"
        truth_neighbourhood = "truth_neighbourhood"
        truth_interaction = "truth_interaction"

    class obsp:
        """Entries of ``obsp``."""

        connectivities = "spatial_connectivities"
        distances = "spatial_distances"
        attention = "nh2st_attention"

    class uns:
        """Entries of ``uns``."""

        spatial = "spatial"
        neighbors = "spatial_neighbors"
        image = "X_image"
        prediction = "nh2st_prediction"
        explain = "nh2st_explain"
        embed = "nh2st_embed"
        format = "nh2st_format"
        log = "log1p"  # scanpy's, for the base of the logarithm
        dropped = "nh2st_dropped"
        truth = "nh2st_truth"
        histo = "histo"  # OmicVerse's, for predictions from slides

    class several:
        """Extra keys of an entry of ``uns``, if one AnnData holds several sections."""

        sections = "sections"

    class embed:
        """Entries of ``uns["nh2st_embed"]``."""

        model = "model"
        scales = "scales"

    class explain:
        """Entries of ``uns["nh2st_explain"]``."""

        gene_gain = "gene_gain"

    class features:
        """Entries of ``uns["X_image"]`` that the package reads again."""

        encoder = "encoder"
        encoders = "encoders"
        floor_centres = "floor_centres"
        made_from = "made_from"
        n_features = "n_features"
        names = "feature_names"
        patch_um = "patch_um"
        stain = "stain"
        views = "views"

    class prediction:
        """Entries of ``uns["nh2st_prediction"]`` that the package reads again."""

        origin = "origin"
        record = "record"
        mode = "mode"
        evidence = "evidence"
        coverage = "coverage"
        familiarity = "familiarity"

    class library:
        """Entries of ``uns["spatial"][library_id]``."""

        images = "images"
        hires = "hires"
        scalefactors = "scalefactors"
        spot_diameter = "spot_diameter_fullres"
        hires_scale = "tissue_hires_scalef"
        metadata = "metadata"
        source_image = "source_image_path"
        microns_per_pixel = "microns_per_pixel"
        array_pitch = "array_pitch_um"

    class tables:
        """Tables of a WSIData, and columns of theirs and of its tiles."""

        prediction = "nh2st_graph"
        tiles = "tiles"
        tile_id = "tile_id"
        tissue_id = "tissue_id"
        region = "library_id"

    class layers:
        """Entries of ``layers``."""

        observed = "observed"
        measured = "measured"
        lower = "lower"
        upper = "upper"
        sd = "sd"
        truth_mean = "truth_mean"
