"""How are images disturbed as cameras, weather and storage disturb them?"""
