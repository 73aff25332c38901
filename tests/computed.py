"""What every published variant costs: name -> (parameters in M, GMACs of one view). The one table for all tests."""

# fmt: off

# Swin and Video Swin. What the official model classes have, run on CPU at the commits in tests/golden/README.md; the
# values of the READMEs and of the papers' tables agree to their printed digits, or the zoo notes the difference.
SWIN = {
    "swin_tiny": (28.288, 4.49), "swin_small": (49.606, 8.74), "swin_base": (87.768, 15.43),
    "swin_base_384": (87.904, 47.08), "swin_large": (196.532, 34.48), "swin_large_384": (196.736, 103.92),
    "video_swin_tiny": (28.158, 87.76), "video_swin_small": (49.817, 165.68), "video_swin_base": (88.049, 281.33),
    "video_swin_base_22k": (88.049, 281.33), "video_swin_base_k600": (88.254, 281.33),
    "video_swin_base_ssv2": (88.834, 320.36), "video_swin_large": (196.954, 603.27),
    "video_swin_large_384": (199.9995, 2106.4),
    # by arithmetic, nobody released these: 199.9995 + 200 · 1537; see tests/test_video_swin_designs.py
    "video_swin_large_384_k600": (200.307, 2106.4), "video_swin_tiny_split": (42.009, 83.20),
    "video_swin_tiny_factorized": (36.489, 95.00),
}

# MViT and MViTv2: our own count. torchvision states 36.610672 M and 70.599 GMACs for mvit_base_16x4, 34.537744 and
# 64.224 for mvit_v2_small_16x4 (MViT_V1_B_Weights, MViT_V2_S_Weights).
MVIT = {
    "mvit_base_16x4": (36.6107, 70.599), "mvit_base_16x4_k600": (36.7645, 70.600),
    "mvit_base_16x4_ssv2": (36.4369, 70.599), "mvit_base_32x3": (36.6114, 169.958),
    "mvit_base_32x3_k600": (36.7652, 169.958), "vit_base_8x8": (87.1600, 179.563),
    "mvit_base_32x3_ssv2": (36.4376, 169.958), "mvit_base_64x3": (36.6130, 455.062),
    "mvit_base_64x3_ssv2": (36.4392, 455.062), "mvit_base_24_32x3": (53.1153, 235.776),
    "mvit_base_24_32x3_k600": (53.2691, 235.776), "mvit_base_24_32x3_ssv2": (52.9415, 235.776),
    "mvit_image_base_16": (36.9826, 7.809), "mvit_image_base_16_max": (36.9456, 7.781),
    "mvit_image_base_24_max": (53.4625, 10.903), "mvit_image_base_24_wide_320": (72.9618, 32.718),
    "mvit_image_base_24_wide_320_max": (72.8990, 32.630), "mvit_v2_small_16x4": (34.5377, 64.224),
    "mvit_v2_small_16x4_ssv2": (34.3640, 64.224), "mvit_v2_base_32x3": (51.2301, 224.473),
    "mvit_v2_base_32x3_ssv2": (51.0563, 224.473), "mvit_v2_large_40x3": (213.3901, 2823.404),
    "mvit_v2_large_40x3_ssv2": (213.1295, 2823.404), "mvit_v2_image_tiny": (24.1733, 4.677),
    "mvit_v2_image_small": (34.8702, 6.960), "mvit_v2_image_base": (51.4727, 10.102),
    "mvit_v2_image_large": (217.9930, 43.711), "mvit_v2_image_huge": (666.8799, 120.305),
}

# TimeSformer: our own count.
TIMESFORMER = {
    "timesformer_divided_8x224": (121.566, 195.830), "timesformer_divided_8x224_k600": (121.720, 195.830),
    "timesformer_divided_8x224_ssv2": (121.393, 195.830), "timesformer_hr_16x448": (122.024, 1702.686),
    "timesformer_hr_16x448_k600": (122.178, 1702.686), "timesformer_hr_16x448_ssv2": (121.850, 1702.685),
    "timesformer_l_96x224": (121.634, 2379.857), "timesformer_l_96x224_k600": (121.788, 2379.857),
    "timesformer_l_64x224_ssv2": (121.436, 1579.191), "timesformer_space_8x224": (86.106, 140.505),
    "timesformer_joint_8x224": (86.112, 179.563), "timesformer_local_global_8x224": (121.566, 206.928),
    "timesformer_axial_8x224": (157.020, 249.412), "timesformer_divided_8x224_space_positions": (121.560, 195.830),
    "timesformer_divided_8x224_no_positions": (121.409, 195.830), "timesformer_mini": (0.498, 0.066),
    "vit_frames_mini": (0.357, 0.049),
}

# UniFormer. What the official model classes have, run at the commit in tests/golden/README.md; for the 384-pixel models
# and the second classifier our own count.
UNIFORMER = {
    "uniformer_small_8": (21.4004, 17.566), "uniformer_small_16": (21.4004, 41.663),
    "uniformer_small_32": (21.4004, 109.445), "uniformer_base_8": (49.8132, 40.134),
    "uniformer_base_16": (49.8132, 96.554), "uniformer_base_32": (49.8132, 258.251),
    "uniformer_small_16_k600": (21.503, 41.663), "uniformer_base_16_k600": (49.9158, 96.554),
    "uniformer_base_32_k600": (49.9158, 258.251), "uniformer_small_16_ssv2": (21.2845, 41.662),
    "uniformer_small_32_ssv2": (21.2845, 109.445), "uniformer_base_16_ssv2": (49.6973, 96.554),
    "uniformer_base_32_ssv2": (49.6973, 258.251), "uniformer_image_small": (21.5453, 3.632),
    "uniformer_image_small_plus": (24.0326, 4.201), "uniformer_image_base": (49.7766, 8.249),
    "uniformer_image_base_ls": (49.7965, 8.249), "uniformer_image_large_ls": (100.1039, 19.714),
    "uniformer_image_small_384": (22.0583, 11.908), "uniformer_image_small_plus_384": (24.5456, 13.721),
    "uniformer_image_base_384": (50.2896, 27.214), "uniformer_image_large_ls_384": (100.1039, 62.764),
}
